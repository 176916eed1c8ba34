"""What can be set, and the checks of what was given."""
