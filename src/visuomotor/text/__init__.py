"""Words before they are numbers: grammars that make instructions, encoders that read them, caches."""
