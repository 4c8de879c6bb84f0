"""Tables: reading, checking and scaling columns."""
