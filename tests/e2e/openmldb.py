"""Reads OpenMLDB's files with nothing of libosync, so that tests have a second opinion: binlogs, and protobuf
messages by field number."""

import struct

BLOCK, HEADER, END_OF_FILE = 4096, 7, 5


def _crc_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    return table


CRC_TABLE = _crc_table()


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    """The payloads of a binlog file's bytes, and whether an end-of-file record closes it. Stops at the first thing
    that is torn."""
    out, whole, at = [], b"", 0
    while True:
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
        if at + HEADER > len(data):
            return out, False
        crc, size, kind = struct.unpack_from("<IHB", data, at)
        payload = data[at + HEADER : at + HEADER + size]
        if len(payload) < size or masked_crc(bytes([kind]) + payload) != crc:
            return out, False
        at += HEADER + size
        if kind == END_OF_FILE:
            return out, True
        whole = payload if kind in (1, 2) else whole + payload
        if kind in (1, 4):
            out.append(whole)


def fields(data):
    """A protobuf message as {field number: [values]}: integers, or bytes."""
    out, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            value = varint()
        elif tag & 7 == 2:
            size = varint()
            value = data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {tag & 7}")
        out.setdefault(tag >> 3, []).append(value)
    return out


def log_entry(payload):
    f = fields(payload)
    one = {number: values[0] for number, values in f.items()}
    return {
        "log_index": one[2],
        "term": one[1],
        "value": one.get(4),
        "ts": one.get(5),
        "delete": one.get(7) == 2,
        "end_ts": one.get(9),
        "ts_name": one.get(10, b"").decode(),
        "dims": [(fields(d)[2][0], fields(d)[1][0]) for d in f.get(6, [])],
    }


def binlog(folder):
    """All entries of a binlog folder, in order."""
    out = []
    for path in sorted(folder.glob("*.log")):
        out += [log_entry(payload) for payload in records(path.read_bytes())[0]]
    return out


def table_meta(data):
    """A TableMeta as the JSON that CreateTable takes."""
    meta = fields(data)

    def text(f, number):
        return f[number][0].decode()

    def desc(raw):
        f = fields(raw)
        return {"name": text(f, 1), "data_type": f[2][0], "not_null": bool(f.get(3, [0])[0])}

    def key(raw):
        f = fields(raw)
        out = {"index_name": text(f, 1), "col_name": [c.decode() for c in f.get(2, [])]}
        if 3 in f:
            out["ts_name"] = text(f, 3)
        if 5 in f:
            ttl = fields(f[5][0])
            out["ttl"] = {"ttl_type": ttl.get(1, [1])[0], "abs_ttl": ttl.get(2, [0])[0], "lat_ttl": ttl.get(3, [0])[0]}
        return out

    def version(raw):
        f = fields(raw)
        return {"id": f[1][0], "field_count": f[2][0]}

    return {
        "tid": meta[1][0],
        "name": text(meta, 2),
        "db": text(meta, 14),
        "compress_type": meta.get(8, [0])[0],
        "column_desc": [desc(d) for d in meta[10]],
        "column_key": [key(k) for k in meta[11]],
        "added_column_desc": [desc(d) for d in meta.get(12, [])],
        "schema_versions": [version(v) for v in meta.get(15, [])],
        "storage_mode": meta[17][0],
    }
