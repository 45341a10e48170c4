"""The evidence study: what the method gains, against which baselines, and which part of it (docs/protocol.md)."""
