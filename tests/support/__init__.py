"""What tests of several folders share: one file for each question that a test asks."""
