-- What the pictures of the console show: ten topologies, and in harbour-north eleven LANs with almost sixty deckies.

INSERT INTO topologies (name) SELECT unnest(ARRAY['airport-west', 'bank-branch-7', 'campus-east', 'grid-south',
    'harbour-north', 'hospital-imaging', 'lab-honeynet', 'metro-depot', 'retail-pos', 'warehouse-12']);
UPDATE topologies SET status = 'deploying' WHERE name <> 'campus-east';
UPDATE topologies SET status = 'active' WHERE name NOT IN ('campus-east', 'lab-honeynet', 'airport-west');
UPDATE topologies SET status = 'failed', reason = 'no host has room for 24 deckies' WHERE name = 'airport-west';
UPDATE topologies SET status = 'degraded', reason = 'atm-3 does not answer' WHERE name = 'bank-branch-7';
UPDATE topologies SET status = 'tearing_down' WHERE name IN ('metro-depot', 'warehouse-12');
UPDATE topologies SET status = 'torn_down' WHERE name = 'metro-depot';

CREATE TEMPORARY TABLE harbour AS SELECT id FROM topologies WHERE name = 'harbour-north';

-- Four columns, three rows; the place of packaging is free, which is what the picture of editing fills.
INSERT INTO lans (topology_id, name, subnet, is_dmz, x, y)
SELECT id, name, subnet::cidr, name = 'dmz', c * 364, r * 308
  FROM harbour, (VALUES
    ('office', '10.20.0.0/24', 0, 0), ('dmz', '10.10.0.0/24', 1, 0), ('partners', '10.30.0.0/24', 2, 0),
    ('guest-wifi', '10.40.0.0/24', 3, 0),
    ('servers', '10.20.1.0/24', 0, 1), ('scada', '10.50.0.0/24', 1, 1), ('historian', '10.50.1.0/24', 2, 1),
    ('engineering', '10.60.0.0/24', 3, 1),
    ('plant-floor', '10.70.0.0/24', 1, 2), ('substation', '10.80.0.0/24', 2, 2),
    ('cctv', '10.90.0.0/24', 3, 2)) AS l (name, subnet, c, r);

-- Two beside another; the fifth is the one that leads into the LAN below.
CREATE TEMPORARY TABLE wanted AS
SELECT lan, decky ->> 0 AS name, string_to_array(decky ->> 1, ' ') AS services, n
  FROM (VALUES
    ('office', '{{ws-anna,rdp smb},{ws-ben,rdp smb},{printer-2,ipp snmp},{mail-1,smtp imap},{jump-1,ssh rdp}}'),
    ('dmz', '{{web-1,http https},{web-2,http https},{vpn-1,ipsec},{mx-1,smtp},{edge-gw,ssh bgp},{dns-1,dns}}'),
    ('partners', '{{api-1,https},{sftp-1,ssh},{edi-1,as2},{proxy-1,http},{b2b-gw,ssh https}}'),
    ('guest-wifi', '{{ap-1,ssh snmp},{ap-2,ssh snmp},{portal-1,http},{dns-2,dns},{guest-gw,ssh}}'),
    ('servers', '{{dc-1,ldap kerberos},{file-1,smb nfs},{wiki-1,http},{backup-1,ssh},{db-1,postgresql ssh},
        {sap-1,http rfc}}'),
    ('scada', '{{hmi-1,vnc http},{hmi-2,vnc http},{scada-1,iec104},{alarm-1,http},{plc-gw,ssh modbus},{ops-1,rdp}}'),
    ('historian', '{{hist-1,opcua postgresql},{opc-1,opcua},{report-1,http},{ntp-1,ntp},{field-gw,ssh iec104}}'),
    ('engineering', '{{eng-1,rdp},{eng-2,rdp},{git-1,ssh http},{lic-1,flexlm},{eng-jump,ssh rdp},{build-1,ssh}}'),
    ('plant-floor', '{{plc-1,modbus s7},{plc-2,modbus s7},{plc-3,modbus s7},{plc-4,modbus},{drive-1,profinet}}'),
    ('substation', '{{rtu-1,dnp3 iec104},{rtu-2,dnp3 iec104},{relay-1,iec61850},{relay-2,iec61850},{meter-1,dlms}}'),
    ('cctv', '{{nvr-1,rtsp http},{cam-1,rtsp},{cam-2,rtsp},{cam-3,rtsp},{cam-4,rtsp}}')) AS l (lan, deckies),
    jsonb_array_elements(to_jsonb(deckies::text[])) WITH ORDINALITY AS m (decky, n);

INSERT INTO deckies (topology_id, name, services, ip, state, x, y, decky_config)
SELECT harbour.id, w.name, to_jsonb(w.services), host(l.subnet)::inet + 9 + w.n,
       CASE w.name WHEN 'plc-3' THEN 'failed' WHEN 'rtu-2' THEN 'degraded' WHEN 'cam-2' THEN 'degraded'
           WHEN 'backup-1' THEN 'stopped' WHEN 'meter-1' THEN 'pending' ELSE 'running' END,
       16 + 152 * ((w.n - 1) % 2), 44 + 64 * ((w.n - 1) / 2),
       CASE WHEN w.name LIKE '%-gw' THEN '{"forwards_l3": true}'::jsonb
           WHEN w.name LIKE 'plc-%'
               THEN '{"banner": "S7-1200", "firmware": {"version": "4.4.1", "signed": true}}'::jsonb
           ELSE '{}'::jsonb END
  FROM harbour, wanted w JOIN lans l ON l.name = w.lan;

INSERT INTO edges (topology_id, decky_uuid, lan_id, ip, is_bridge, forwards_l3)
SELECT d.topology_id, d.uuid, l.id, d.ip, false, false
  FROM wanted w JOIN deckies d ON d.name = w.name JOIN lans l ON l.name = w.lan;

INSERT INTO edges (topology_id, decky_uuid, lan_id, ip, is_bridge, forwards_l3)
SELECT d.topology_id, d.uuid, l.id, host(l.subnet)::inet + 1, true, d.name LIKE '%-gw'
  FROM (VALUES ('jump-1', 'servers'), ('edge-gw', 'servers'), ('edge-gw', 'scada'), ('b2b-gw', 'historian'),
    ('guest-gw', 'engineering'), ('plc-gw', 'plant-floor'), ('field-gw', 'substation'),
    ('eng-jump', 'cctv'), ('hmi-2', 'historian')) AS b (decky, lan)
  JOIN deckies d ON d.name = b.decky JOIN lans l ON l.name = b.lan;

-- A small graph for the rest, so that none is empty.
INSERT INTO lans (topology_id, name, subnet)
SELECT id, lan, ('10.' || n || '.0.0/24')::cidr
  FROM topologies, unnest(ARRAY['dmz', 'branch']) WITH ORDINALITY AS l (lan, n)
 WHERE status IN ('active', 'degraded') AND id NOT IN (SELECT id FROM harbour);
