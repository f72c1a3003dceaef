"""Configuration, pipeline definition and run inspection."""
