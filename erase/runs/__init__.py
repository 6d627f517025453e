"""What a run leaves in its folder, who may write there, and the processes of a run."""
