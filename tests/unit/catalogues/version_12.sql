-- A catalogue as dmsnap made it at commit 5b6f62a, schema version 12.
BEGIN TRANSACTION;
CREATE TABLE area (
    id TEXT NOT NULL, 
    volume_id TEXT NOT NULL, 
    role TEXT NOT NULL, 
    generation INTEGER NOT NULL, 
    path TEXT NOT NULL, 
    size_bytes BIGINT NOT NULL, 
    point_id TEXT, 
    PRIMARY KEY (id), 
    FOREIGN KEY(volume_id) REFERENCES volume (id)
);
INSERT INTO "area" VALUES('cccccccc-0000-4000-8000-000000000001','aaaaaaaa-0000-4000-8000-000000000001','cow',1,'/store/cow.img',1073741824,'bbbbbbbb-0000-4000-8000-000000000001');
INSERT INTO "area" VALUES('cccccccc-0000-4000-8000-000000000002','aaaaaaaa-0000-4000-8000-000000000001','era-metadata',1,'/store/era.img',1073741824,NULL);
CREATE TABLE export (
    id TEXT NOT NULL, 
    kind TEXT NOT NULL, 
    volume_id TEXT, 
    point_id TEXT, 
    device TEXT, 
    size_bytes BIGINT NOT NULL, 
    target TEXT NOT NULL, 
    lun INTEGER NOT NULL, 
    address TEXT NOT NULL, 
    port INTEGER NOT NULL, 
    initiators JSON NOT NULL, 
    read_only BOOLEAN NOT NULL, 
    generation INTEGER NOT NULL, 
    complete BOOLEAN NOT NULL, 
    created_ns BIGINT NOT NULL, 
    PRIMARY KEY (id), 
    FOREIGN KEY(volume_id) REFERENCES volume (id)
);
CREATE TABLE hook_run (
    job_id INTEGER NOT NULL, 
    number INTEGER NOT NULL, 
    step TEXT NOT NULL, 
    hook TEXT NOT NULL, 
    phase TEXT NOT NULL, 
    outcome TEXT NOT NULL, 
    failed BOOLEAN NOT NULL, 
    seconds FLOAT, 
    output TEXT NOT NULL, 
    PRIMARY KEY (job_id, number), 
    FOREIGN KEY(job_id) REFERENCES job (id)
);
INSERT INTO "hook_run" VALUES(1,0,'precopy','quiesce','precopy','ended well',0,0.25,'of a hook
');
CREATE TABLE identifier (
    volume_id TEXT NOT NULL, 
    kind TEXT NOT NULL, 
    value TEXT NOT NULL, 
    seen_ns BIGINT NOT NULL, 
    PRIMARY KEY (volume_id, kind, value), 
    FOREIGN KEY(volume_id) REFERENCES volume (id)
);
INSERT INTO "identifier" VALUES('aaaaaaaa-0000-4000-8000-000000000001','link','/dev/vg/srv',1790000000000000020);
INSERT INTO "identifier" VALUES('aaaaaaaa-0000-4000-8000-000000000001','lv-uuid','abc-def',1790000000000000020);
CREATE TABLE job (
    id INTEGER NOT NULL, 
    operation TEXT NOT NULL, 
    arguments JSON NOT NULL, 
    pid INTEGER NOT NULL, 
    started_ns BIGINT NOT NULL, 
    finished_ns BIGINT, 
    state TEXT NOT NULL, 
    outcome TEXT, 
    PRIMARY KEY (id)
);
INSERT INTO "job" VALUES(1,'sync','{"name": "srv"}',1,1790000000000000020,1790000000000000020,'done','it is done');
INSERT INTO "job" VALUES(2,'sync','{"name": "srv"}',1,1790000000000000020,1790000000000000020,'undone','it is undone');
INSERT INTO "job" VALUES(3,'sync','{"name": "srv"}',1,1790000000000000020,1790000000000000020,'abandoned','it is abandoned');
INSERT INTO "job" VALUES(4,'sync','{"name": "srv"}',1,1790000000000000020,NULL,'running',NULL);
CREATE TABLE job_step (
    job_id INTEGER NOT NULL, 
    position INTEGER NOT NULL, 
    name TEXT NOT NULL, 
    state TEXT NOT NULL, 
    seconds FLOAT, 
    PRIMARY KEY (job_id, position), 
    FOREIGN KEY(job_id) REFERENCES job (id)
);
INSERT INTO "job_step" VALUES(1,0,'track','done',0.5);
INSERT INTO "job_step" VALUES(2,0,'track','done',0.5);
INSERT INTO "job_step" VALUES(3,0,'track','done',0.5);
INSERT INTO "job_step" VALUES(4,0,'track','done',0.5);
CREATE TABLE job_volume (
    job_id INTEGER NOT NULL, 
    volume_id TEXT NOT NULL, 
    settled BOOLEAN NOT NULL, 
    operation TEXT, 
    PRIMARY KEY (job_id, volume_id), 
    FOREIGN KEY(job_id) REFERENCES job (id)
);
INSERT INTO "job_volume" VALUES(1,'aaaaaaaa-0000-4000-8000-000000000001',1,'sync');
INSERT INTO "job_volume" VALUES(2,'aaaaaaaa-0000-4000-8000-000000000001',1,'sync');
INSERT INTO "job_volume" VALUES(3,'aaaaaaaa-0000-4000-8000-000000000001',1,'sync');
INSERT INTO "job_volume" VALUES(4,'aaaaaaaa-0000-4000-8000-000000000001',0,'sync');
CREATE TABLE place (
    point_id TEXT NOT NULL, 
    kind TEXT NOT NULL, 
    since_ns BIGINT NOT NULL, 
    device TEXT NOT NULL, 
    until_ns BIGINT, 
    PRIMARY KEY (point_id, kind, since_ns), 
    FOREIGN KEY(point_id) REFERENCES point (id)
);
INSERT INTO "place" VALUES('bbbbbbbb-0000-4000-8000-000000000002','live',1790000000000000003,'/store/gone.img',1790000000000000009);
INSERT INTO "place" VALUES('bbbbbbbb-0000-4000-8000-000000000001','live',1790000000000000005,'/store/cow.img',NULL);
INSERT INTO "place" VALUES('bbbbbbbb-0000-4000-8000-000000000001','replica',1790000000000000020,'/dev/sdb',NULL);
CREATE TABLE point (
    id TEXT NOT NULL, 
    volume_id TEXT NOT NULL, 
    created_ns BIGINT NOT NULL, 
    keep BOOLEAN NOT NULL, 
    "temporary" BOOLEAN NOT NULL, 
    era_since INTEGER NOT NULL, 
    tracking_id TEXT NOT NULL, 
    window_seconds FLOAT NOT NULL, 
    area_id TEXT, 
    invalid_reason TEXT, 
    deleted_ns BIGINT, 
    deleted_reason TEXT, 
    deleted_by TEXT, 
    lifetime_class INTEGER, 
    expires_ns BIGINT, 
    comment TEXT, 
    PRIMARY KEY (id), 
    FOREIGN KEY(volume_id) REFERENCES volume (id)
);
INSERT INTO "point" VALUES('bbbbbbbb-0000-4000-8000-000000000002','aaaaaaaa-0000-4000-8000-000000000001',1790000000000000003,0,0,7,'boot:1',0.0034,NULL,NULL,1790000000000000009,'prune','admin',0,NULL,NULL);
INSERT INTO "point" VALUES('bbbbbbbb-0000-4000-8000-000000000001','aaaaaaaa-0000-4000-8000-000000000001',1790000000000000005,1,0,7,'boot:1',0.0034,'cccccccc-0000-4000-8000-000000000001',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE released (
    device TEXT NOT NULL, 
    volume TEXT NOT NULL, 
    size_bytes BIGINT NOT NULL, 
    mark TEXT NOT NULL, 
    released_ns BIGINT NOT NULL, 
    PRIMARY KEY (device)
);
INSERT INTO "released" VALUES('/dev/sdy','srv',1099511627776,'a mark',1790000000000000021);
CREATE TABLE schema_version (
    version_num VARCHAR(32) NOT NULL, 
    PRIMARY KEY (version_num)
);
INSERT INTO "schema_version" VALUES('12');
CREATE TABLE skipped (
    recovery_id TEXT NOT NULL, 
    points JSON NOT NULL, 
    extents BLOB NOT NULL, 
    PRIMARY KEY (recovery_id)
);
INSERT INTO "skipped" VALUES('aaaaaaaa-0000-4000-8000-000000000002','["bbbbbbbb-0000-4000-8000-000000000001"]',X'780163606064800026300500002A0004');
CREATE TABLE volume (
    id TEXT NOT NULL, 
    name TEXT NOT NULL, 
    state TEXT NOT NULL, 
    backing TEXT NOT NULL, 
    recovery TEXT, 
    recovery_id TEXT, 
    store TEXT NOT NULL, 
    size_bytes BIGINT NOT NULL, 
    block_bytes INTEGER NOT NULL, 
    chunk_bytes INTEGER NOT NULL, 
    fs_type TEXT NOT NULL, 
    fs_uuid TEXT NOT NULL, 
    mounts JSON NOT NULL, 
    generation INTEGER NOT NULL, 
    tracking_id TEXT NOT NULL, 
    trial_point TEXT, 
    previous_backing TEXT, 
    parting JSON, 
    hydration JSON, 
    left_behind JSON, 
    units JSON, 
    trial_live BOOLEAN, 
    live JSON, 
    joined BOOLEAN, 
    device_bytes BIGINT, 
    created_ns BIGINT NOT NULL, 
    removed_ns BIGINT, 
    PRIMARY KEY (id)
);
INSERT INTO "volume" VALUES('aaaaaaaa-0000-4000-8000-000000000001','srv','protected','/dev/vg/srv','/dev/sdb','aaaaaaaa-0000-4000-8000-000000000002','/var/lib/dmsnap/store',1099511627776,65536,4096,'ext4','3f1c','[{"mount_point": "/srv", "fs_type": "ext4", "options": ["rw", "noatime"], "bind_from": "", "inside": false}]',1,'boot:1',NULL,NULL,'{"since": 7, "reason": null, "tracking_id": "boot:2", "boot_id": "boot", "sectors_written": 4096, "device_bytes": 0}',NULL,'["/dev/sdx"]','["db.service"]',0,'{"name": "vg-srv", "uuid": "LVM-srv", "boot_id": "boot"}',1,2199023255552,1790000000000000001,NULL);
INSERT INTO "volume" VALUES('aaaaaaaa-0000-4000-8000-000000000003','former','protected','/dev/vg/former','/dev/sdb','aaaaaaaa-0000-4000-8000-000000000002','/var/lib/dmsnap/store',1099511627776,65536,4096,'ext4','3f1c','[{"mount_point": "/srv", "fs_type": "ext4", "options": ["rw", "noatime"], "bind_from": "", "inside": false}]',1,'boot:1',NULL,NULL,'{"since": 7, "reason": null, "tracking_id": "boot:2", "boot_id": "boot", "sectors_written": 4096, "device_bytes": 0}',NULL,'["/dev/sdx"]','["db.service"]',0,'{"name": "vg-srv", "uuid": "LVM-srv", "boot_id": "boot"}',1,2199023255552,1790000000000000001,1790000000000000020);
CREATE UNIQUE INDEX volume_name ON volume (name) WHERE removed_ns IS NULL;
CREATE INDEX job_started ON job (started_ns);
CREATE INDEX job_running ON job (id) WHERE state = 'running';
CREATE INDEX ix_area_volume_id ON area (volume_id);
CREATE INDEX point_present ON point (volume_id, created_ns) WHERE deleted_ns IS NULL;
CREATE INDEX point_past ON point (volume_id, lifetime_class, created_ns) WHERE deleted_ns IS NOT NULL;
CREATE INDEX point_live ON point (volume_id, created_ns) WHERE area_id IS NOT NULL;
CREATE INDEX ix_export_volume_id ON export (volume_id);
CREATE INDEX job_of_volume_by_operation ON job_volume (volume_id, operation, job_id);
CREATE INDEX job_unsettled ON job_volume (volume_id, settled, job_id) WHERE settled = 0;
CREATE INDEX job_of_volume ON job_volume (volume_id, job_id);
CREATE INDEX hook_run_of ON hook_run (hook, job_id);
COMMIT;
