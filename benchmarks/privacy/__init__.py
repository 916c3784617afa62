"""What task specifications give away, by attack."""
