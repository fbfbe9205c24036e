"""The tabs under the answers."""
