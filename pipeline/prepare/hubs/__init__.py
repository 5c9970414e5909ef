"""Images as hubs serve them: parquet files and WebDataset shards, which bring their labels."""
