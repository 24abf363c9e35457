"""What operations find prepared: commands, texts that are written, scripts."""

import json

from crashes.subject import MOUNT_POINT, NAME, POLICY, PROTECT, STORE, Entry, Script

SYNCED: tuple[Entry, ...] = ("second", ("sync", NAME), "third")
TRIED = (*SYNCED, ("swap", NAME), "trial")
TRIED_EARLIER = (*SYNCED, ("swap", NAME, "--to", "POINT-2"), "trial")
LIVE = (*SYNCED, ("point", "create", NAME), "fourth")
TRIED_LIVE = (*LIVE, ("swap", NAME, "--to", "POINT-1"), "trial")
COMMITTED = (*TRIED, ("swap", "commit", NAME), "promoted")
ATTACH = ("attach", NAME, "--recovery", "DISK-third")
HYDRATE = ("hydrate", NAME, "--onto", "DISK-other")
TO = ("--portal", "127.0.0.1", "--initiator", "iqn.2026-01.org.example.lab:nobody")
# The catalogue is gone, and the volume's own device; fstab names the front that is to come.
FORGOTTEN = (
    *SYNCED,
    ("unprotect", NAME),
    Script(f"""
        rm -r /var/lib/dmsnap; umount {MOUNT_POINT}; mkfs.ext4 -q -F DISK-data
        sed -i "s|^DISK-data |/dev/mapper/{NAME} |" /etc/fstab
    """),
)
FROM_LABEL = ("swap", "--from-label", "DISK-recovery", "--store", STORE)
# The volume is a logical volume of the other disk, in use all the time.
LOGICAL = Script(f"""
    export DM_DISABLE_UDEV=1
    vgcreate -qq --yes vg DISK-other; lvcreate -qq --yes -L 24M -n lv vg
    mkfs.ext4 -q /dev/mapper/vg-lv; mkdir /former; mount --move {MOUNT_POINT} /former
    sed -i "s|^DISK-data |/dev/mapper/vg-lv |" /etc/fstab; mount {MOUNT_POINT}
    cp -t {MOUNT_POINT} /former/kept /former/note /former/bulk; umount /former
""")
PROTECT_LIVE = ("protect", "/dev/mapper/vg-lv", "--live", *PROTECT[2:])
GROUPED = Script("""
    export DM_DISABLE_UDEV=1
    vgcreate -qq --yes vg DISK-recovery; lvcreate -qq --yes -L 16M -n lv vg
    head -c 16M /dev/urandom >/dev/mapper/vg-lv
""")
ACTIVATED = Script("modprobe -a dm-snapshot; DM_DISABLE_UDEV=1 vgchange -qq -ay vg")
# The logical volume and its snapshot have the same content.
SNAPPED = Script("""
    for name in lv $(lvs --noheadings -o lv_name vg | grep dmsnap-snapshot); do
        sha256sum <"/dev/mapper/vg-${name//-/--}"
    done
""")
# A copy cannot be seen, or it is whole.
COPIED = Script(f"""
    if [ -z "$(blkid -p -o value -s TYPE DISK-other || true)" ]; then echo nothing
    elif cmp DISK-other /dev/mapper/dmsnap-{NAME}-point-*; then echo whole; fi
""")
EXPORT = ("export", "POINT-2", *TO)
EXPORT_DEVICE = ("export", "DISK-other", *TO)

# Nobody waits for a disk that is gone.
IMPATIENT = Script("echo 'boot_wait_seconds = 1' >/etc/dmsnap/dmsnap.toml")

# A command that is killed, and not the computer: what it left is there for the next one.
KILLED = """
    status=0
    python3 - <<'END' || status=$?
import os, signal
from dmsnap.cli.main import main
from {module} import {owner}
def killed(*_words, **_named):
    os.kill(os.getpid(), signal.SIGKILL)
{owner}.{function} = killed
main({words!r})
END
    [ $status = 137 ]
"""
TORN = Script(
    KILLED.format(
        module="dmsnap.recovery", owner="apply", function="write_new", words=["sync", NAME]
    )
)
# A commit that was cut off as its overlay was to be merged: the recovery volume is no point now.
CUT_OFF = Script(
    KILLED.format(
        module="dmsnap.service.swaps.promotion",
        owner="Promotion",
        function="_merge_overlay",
        words=["swap", "commit", NAME],
    )
)


def moved_in_part(device: str) -> Script:
    """A move that was killed when everything had been copied once."""
    module = "dmsnap.service.hydrations.hydration"
    words = ["hydrate", NAME, "--onto", device]
    return Script(KILLED.format(module=module, owner="Copying", function="catch_up", words=words))


# Which file system others see on the device that a move was given up on.
OTHER_TYPE = Script("blkid -p -o value -s TYPE DISK-other || true")

# A volume whose front an error of dm-era's disk had led past it.
PASSED_BY = Script(f"""
    export DM_DISABLE_UDEV=1
    sectors=$(blockdev --getsz /dev/mapper/{NAME})
    dmsetup load {NAME} --table "0 $sectors linear /dev/mapper/dmsnap-{NAME}-origin-1 0"
    dmsetup suspend {NAME}; dmsetup resume {NAME}
""")
WITH_SPARES = Script("echo 'spare_from_bytes = 0' >/etc/dmsnap/dmsnap.toml")
WITHOUT_SPARES = Script("rm /etc/dmsnap/dmsnap.toml")
# From then on another host has the disks.
ANOTHER_HOST = Script(f"echo {'4f' * 16} >/etc/machine-id")
POOLED = Script("""
    printf '[pool.disks]\\nvolumes = ["DISK-data"]\\n' >/etc/dmsnap/pool.toml
""")
BUSY = Script(f"setsid -f sleep infinity <{MOUNT_POINT}/kept >/dev/null 2>&1")

# What cannot go into a live point's store any more once another is gone back to.
CROWDED: tuple[Entry, ...] = (
    ("point", "create", NAME),
    Script(f"seq -f 'fifth %08.0f' 999999 | head -c 8M >{MOUNT_POINT}/more; sync -f {MOUNT_POINT}"),
    ("point", "create", NAME),
    ("swap", NAME, "--to", "POINT-2"),
    Script(
        f"seq -f 'trial %08.0f' 999999 | head -c 10M >{MOUNT_POINT}/more; sync -f {MOUNT_POINT}"
    ),
)

APPLICATION = "application.service"
INSTALLED = Script(f"""
    cat >/etc/systemd/system/{APPLICATION} <<'END'
[Unit]
RequiresMountsFor={MOUNT_POINT}
[Service]
ExecStart=sleep infinity
StandardInput=file:{MOUNT_POINT}/kept
[Install]
WantedBy=lab.target
END
    systemctl daemon-reload; systemctl -q enable {APPLICATION}
""")
STARTED = Script(f"systemctl start {APPLICATION}")
IS_ACTIVE = Script(f"systemctl is-active {APPLICATION} || true")

# Of a pair of hooks both have run, whatever is cut off; that behind a removal, where one was made.
PHASES = ("presnapshot", "postsnapshot", "precopy", "postcopy", "unsnap")
HOOKS = POLICY.replace("[policy.few]", f"[policy.few]\nhooks = {json.dumps(PHASES)}") + "".join(
    f'[hook.{phase}]\nphase = "{phase}"\ncommand = ["/usr/local/sbin/hook"]\n' for phase in PHASES
)
HOOKED = Script(f"""
    mkdir -p /var/hooked
    cat >/usr/local/sbin/hook <<'END'
#!/bin/sh
cd /var/hooked
case $DMSNAP_PHASE in
    presnapshot) touch quiesced ;;
    postsnapshot) rm -f quiesced ;;
    precopy) touch copying ;;
    postcopy) rm -f copying ;;
    unsnap) touch removed ;;
esac
sync
END
    chmod 755 /usr/local/sbin/hook
    printf '%s' '{HOOKS}' >/etc/dmsnap/policy.toml
""")
LEFT_BY_HOOKS = Script("ls /var/hooked")

# The recovery volume is the LUN of a target that is on this host, too, as is its initiator.
LUN_TARGET = "iqn.2026-11.org.example.lab:crash"
LUN = f"iscsi://127.0.0.1/{LUN_TARGET}/1"
SERVED = Script(f"""
    modprobe -a target_core_mod target_core_iblock iscsi_target_mod iscsi_tcp sd_mod
    mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
    cd /sys/kernel/config/target
    store=core/iblock_0/lun group=iscsi/{LUN_TARGET}/tpgt_1
    mkdir -p iscsi $store $group
    echo udev_path=DISK-third >$store/control
    echo 0bd1f2a4-6a0e-4a83-9d0c-crash >$store/wwn/vpd_unit_serial
    echo 1 >$store/enable
    echo 1 >$group/attrib/generate_node_acls
    echo 0 >$group/attrib/demo_mode_write_protect
    echo 0 >$group/attrib/authentication
    mkdir $group/np/127.0.0.1:3260 $group/lun/lun_1
    ln -s /sys/kernel/config/target/$store $group/lun/lun_1/store
    echo 1 >$group/enable
    echo InitiatorName=iqn.2026-11.org.example.lab:initiator >/etc/iscsi/initiatorname.iscsi
    mkdir -p /run/lock/iscsi; iscsid
""")
# Nobody is logged in after a boot before that is asked for: so is whoever has a record of it.
LOGGED_IN = Script("iscsiadm -m node --login >/dev/null 2>&1 || true")
PROTECT_ONTO_LUN = (*PROTECT[:4], "--recovery", LUN, *PROTECT[6:])

# Another volume, of which a point is taken at the same moment.
OTHER = "other"
WITH_OTHER: tuple[Entry, ...] = (
    *SYNCED,
    Script("mkfs.ext4 -q DISK-other; mount DISK-other /mnt; echo beside >/mnt/note; umount /mnt"),
    ("protect", "DISK-other", "--name", OTHER, "--recovery", "DISK-third", "--store", STORE),
)
ASSEMBLED_OTHER = Script(f"dmsnap assemble {OTHER} --boot")
