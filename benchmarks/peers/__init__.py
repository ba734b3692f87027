"""What is measured, one file each: ``ours``, and what others would use."""
