"""Camera input: subscriptions keep the newest messages serialized; only a frame that is used is decoded."""
