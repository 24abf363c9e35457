"""The kernel's SCSI target (LIO): what is published from this host by iSCSI."""
