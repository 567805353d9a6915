"""What the tools do with what people give them."""
