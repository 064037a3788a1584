"""What a statistician asks of a fitted model: variances, held-out predictions, and the fewest points a claim rests on."""
