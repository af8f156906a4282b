"""Steps between robot units and model space; each can be applied to samples and inverted for actions."""
