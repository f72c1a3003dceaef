"""A Pusher whose versions a polling server sees complete or not at all."""
