"""What writes the generated pages of docs/ and checks the built site."""
