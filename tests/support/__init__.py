"""What several tests share: images, stand-ins for S3, the rules of the clients, running programs."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The folder of the whole project."""
