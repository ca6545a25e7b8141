"""Cards, uploads to the Hub, and pages whose figures come from commands."""
