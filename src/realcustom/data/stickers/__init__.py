"""The embedded model's world: openly licensed drawings of things, composed into simple scenes with captions."""
