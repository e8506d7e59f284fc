"""What things cost: time, memory, operations."""
