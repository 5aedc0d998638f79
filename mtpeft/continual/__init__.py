"""Sequential training on Avalanche. Importing this package does not import Avalanche; its modules do."""
