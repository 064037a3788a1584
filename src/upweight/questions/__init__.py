"""The questions of a Study: which changes each one makes, and how the answers are measured."""
