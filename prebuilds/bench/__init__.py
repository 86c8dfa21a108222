"""What a claim costs, measured beside its floors in the same run: on a stack in use, or on one of its own."""
