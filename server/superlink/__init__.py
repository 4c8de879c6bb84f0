"""The coordinator's programs beside itself: Flower's SuperLink, the gateway, the relay."""
