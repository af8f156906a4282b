"""Published vision and language models, our own code, with strict loading of their weights."""
