"""The second server of `secagg=two_server`, at an organisation that is not the coordinator's."""
