"""What surrounds the steps of a run: journal, mail, the ends of epochs, dialogue, snapshots."""
