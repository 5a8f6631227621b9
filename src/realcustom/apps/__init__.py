"""What people start: the command and the demo."""
