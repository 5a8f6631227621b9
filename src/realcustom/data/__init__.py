"""Pictures to train and measure on: the stickers world, and plain folders of captioned pictures."""
