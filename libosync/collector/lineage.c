#include "collector/lineage.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"

osync__position_t osync__position_behind(const osync__log_record_t *rec) {
    return (osync__position_t){.next = rec->log_index + 1, .term = rec->term, .crc = rec->crc, .known = true};
}

/* Appends; without room the first goes. */
static void add(osync__stretch_t *list, size_t *n, osync__stretch_t s) {
    if (*n == OSYNC__MAX_TERMS) {
        memmove(list, list + 1, (OSYNC__MAX_TERMS - 1) * sizeof *list);
        --*n;
    }
    list[(*n)++] = s;
}

void osync__lineage_read(osync__lineage_t *lineage, const osync__position_t *at, const osync__log_record_t *rec) {
    if (at->known && rec->term != at->term)
        add(lineage->earlier, &lineage->n_earlier, (osync__stretch_t){.term = at->term, .last = at->next - 1});
}

bool osync__lineage_was_read(const osync__lineage_t *lineage, const osync__log_record_t *rec) {
    for (size_t i = 0; i < lineage->n_lost; i++) {
        const osync__stretch_t *s = &lineage->lost[i];
        if (rec->term == s->term && rec->log_index >= s->first && rec->log_index <= s->last) return true;
    }
    return false;
}

void osync__lineage_cut(osync__lineage_t *lineage, const osync__position_t *at, const osync__position_t *common) {
    uint64_t first = common->next;
    size_t kept = 0;
    for (size_t i = 0; i < lineage->n_earlier; i++) {
        osync__stretch_t s = lineage->earlier[i];
        if (s.last < first) {
            if (s.term < common->term) lineage->earlier[kept++] = s;
            continue;
        }
        s.first = first;
        first = s.last + 1;
        add(lineage->lost, &lineage->n_lost, s);
    }
    add(lineage->lost, &lineage->n_lost, (osync__stretch_t){.term = at->term, .first = first, .last = at->next - 1});
    lineage->n_earlier = kept;
}

int osync__log_compare(osync__binlog_t *log, const osync__position_t *at, osync__verdict_t *verdict, osync_error_t *why,
                       osync_error_t *err) {
    osync__log_record_t rec;
    uint64_t index = at->next - 1, newest, newest_term;
    *verdict = OSYNC__LOG_SAME;
    if (at->next <= 1 || !at->known) return 0;
    int rc = osync__binlog_refresh(log, err);
    if (rc) return rc;
    uint64_t oldest = osync__binlog_oldest(log);
    if (oldest > at->next)
        return osync__err(err, OSYNC_EGAP,
                          "log entries %" PRIu64 " to %" PRIu64 " are gone: the oldest one retained is %" PRIu64,
                          at->next, oldest - 1, oldest);
    rc = osync__binlog_seek(log, oldest > index ? oldest : index, err);
    if (!rc) rc = osync__binlog_next(log, &rec, err);
    if (rc && rc != OSYNC_EOF) return rc;
    bool there = rc == 0;
    if (there && oldest > index) {
        /* The entry behind it has the same leader, so that what is before it is what that leader had. */
        if (rec.term == at->term) return 0;
        return osync__err(err, OSYNC_EGAP,
                          "log entry %" PRIu64 " is gone (the oldest one retained is %" PRIu64 ", of term %" PRIu64
                          "), and without it nothing tells whether this is the log that was read up to there in "
                          "term %" PRIu64,
                          index, oldest, rec.term, at->term);
    }
    if (there) {
        osync__position_t found = osync__position_behind(&rec);
        if (found.term == at->term && found.crc == at->crc) return 0;
        if (found.term == at->term)
            return osync__err(err, OSYNC_EDIVERGED,
                              "log entry %" PRIu64 " (file %08" PRIu32 ".log) is another one than was read earlier, "
                              "with the same term %" PRIu64 ": crc %08" PRIx32 " instead of %08" PRIx32,
                              index, rec.file, at->term, found.crc, at->crc);
    }
    uint64_t found_term = there ? rec.term : 0;
    rc = osync__binlog_newest(log, &newest, &newest_term, err);
    if (rc) return rc;
    if (newest_term > at->term) {
        *verdict = OSYNC__LOG_PARTED;
    } else if (!there) {
        *verdict = OSYNC__LOG_BEHIND;
        osync__err(why, OSYNC_EAGAIN,
                   "waiting for the log to reach entry %" PRIu64 ", which was read earlier: it ends with entry %" PRIu64
                   " on this replica, which lags behind or isn't the leader any more",
                   index, newest);
    } else if (newest_term < at->term) {
        *verdict = OSYNC__LOG_BEHIND;
        osync__err(why, OSYNC_EAGAIN,
                   "waiting for a log with entry %" PRIu64 " of term %" PRIu64 ", which was read earlier: this replica "
                   "has one of term %" PRIu64 " there and none of a later term, so it was left behind by a fail-over",
                   index, at->term, found_term);
    } else {
        return osync__err(err, OSYNC_EDIVERGED,
                          "log entry %" PRIu64 " has term %" PRIu64 ", but one of term %" PRIu64
                          " was read earlier, and later entries have that term too",
                          index, found_term, at->term);
    }
    return 0;
}

/* Was an entry of that index and term read? */
static bool was_read(const osync__lineage_t *lineage, const osync__position_t *at, const osync__log_record_t *rec) {
    if (rec->term == at->term) return rec->log_index < at->next;
    for (size_t i = 0; i < lineage->n_earlier; i++)
        if (lineage->earlier[i].term == rec->term) return rec->log_index <= lineage->earlier[i].last;
    return false;
}

int osync__log_common(osync__binlog_t *log, const osync__lineage_t *lineage, const osync__position_t *at,
                      const volatile int *cancel, osync__position_t *common, osync_error_t *err) {
    const osync__log_file_t *files;
    uint64_t end = at->next, term = 0;
    *common = (osync__position_t){0};
    /* Terms ascend, so that the newest file with a common entry has the last one. */
    for (size_t i = osync__binlog_files(log, &files); i-- > 0 && common->next == 0;) {
        uint64_t begin = files[i].first;
        if (!files[i].has_entry || begin >= end || files[i].term > at->term) continue;
        int rc = osync__binlog_seek(log, begin, err);
        for (uint64_t next = begin; !rc && next < end; next++) {
            osync__log_record_t rec;
            if (cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED))
                return osync__err(err, OSYNC_ECANCELED, "reading was canceled");
            rc = osync__binlog_next(log, &rec, err);
            if (rc) break;
            if (next > begin && rec.term < term)
                return osync__err(err, OSYNC_EDIVERGED,
                                  "log entry %" PRIu64 " has term %" PRIu64 ", after term %" PRIu64, rec.log_index,
                                  rec.term, term);
            term = rec.term;
            if (was_read(lineage, at, &rec)) *common = osync__position_behind(&rec);
        }
        if (rc && rc != OSYNC_EOF) return rc;
        end = begin;
        size_t n = osync__binlog_files(log, &files); /* reading may have listed the folder again */
        if (i > n) i = n;
    }
    return 0;
}
