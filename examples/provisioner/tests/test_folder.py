import pytest
from folder_provisioner import FolderProvisioner


@pytest.fixture
def conforming_provisioner():
    return FolderProvisioner


def test_it_keeps_the_protocols_promises(conformance_check):
    conformance_check()
