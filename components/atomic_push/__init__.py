"""A Pusher whose versions a polling server sees whole or not at all."""
