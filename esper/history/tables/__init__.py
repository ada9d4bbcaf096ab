"""Tables, views and their migrations."""
