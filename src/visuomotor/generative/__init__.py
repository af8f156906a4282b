"""Ways to turn noise into actions, as functions over a callable."""
