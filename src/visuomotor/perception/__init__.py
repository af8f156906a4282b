"""What a policy sees and hears, made one vector: eyes, words and geometry that several families share."""
