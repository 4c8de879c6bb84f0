"""Images: folders of them, and files in MedMNIST's form."""
