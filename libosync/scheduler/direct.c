/* Direct writing (docs/delivery.md): which collectors may write the staged files of their partitions themselves, where,
 * and what they have to say when they have done it. Nothing is committed here: that is delivery's, of files that it
 * staged itself and of these alike. */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"
#include "scheduler/internal.h"

const char *osync__sched_direct_fault(const osync__task_t *t) {
    const osync_scheduler_t *s = t->s;
    if (s->data_path == OSYNC__DATA_PROXY) return "data_path is proxy";
    if (s->data_path == OSYNC__DATA_AUTO && s->sinks_config.make)
        return "the program brings sinks of its own, which collectors may not have";
    /* Times in the files must not depend on who writes them. */
    if (!t->timezone && !*s->zone) return "this machine's time zone has no name: set csv.timezone";
    return NULL;
}

/* The name that it asks under; NULL: it doesn't ask, or isn't let. */
static const char *stager_of(osync__sub_t *sub, const Openmldb__Datasync__CollectorReport *report) {
    if (!report || !report->stager || osync__sched_direct_fault(sub->task)) return NULL;
    if (sub->proxy_until && osync__mono_ms() >= sub->proxy_until) sub->proxy_until = 0;
    bool may = sub->ready && sub->status != OSYNC__SCHEDULER__STATUS__SUCCESS && !sub->proxy_until;
    return may ? report->stager : NULL;
}

bool osync__sched_direct_ask(osync__sub_t *sub, const Openmldb__Datasync__CollectorReport *report) {
    const char *stager = stager_of(sub, report), *incarnation;
    if (!stager || osync__delivery_grant(sub->delivery, stager, &incarnation, NULL) != OSYNC_ECONFLICT) return false;
    /* The former one may still live, and write in there. */
    sub->ready = false;
    osync__delivery_regrant(sub->delivery);
    return true;
}

bool osync__sched_direct_granted(osync__sub_t *sub, const Openmldb__Datasync__SendDataRequest *r) {
    const char *stager = stager_of(sub, r->report), *incarnation;
    return stager && osync__delivery_grant(sub->delivery, stager, &incarnation, NULL) == 0 &&
           strcmp(incarnation, r->staged->incarnation) == 0;
}

bool osync__sched_direct_grant(osync__sub_t *sub, const Openmldb__Datasync__CollectorReport *report,
                               Openmldb__Datasync__StageGrant *grant, osync__buf_t *folder) {
    osync__task_t *t = sub->task;
    const char *stager = stager_of(sub, report), *incarnation;
    osync__sinks_place_t place;
    if (!stager || osync__delivery_grant(sub->delivery, stager, &incarnation, folder)) return false;
    osync__sinks_place(t->s->sinks, t->sink, &place);
    openmldb__datasync__stage_grant__init(grant);
    grant->incarnation = (char *)(uintptr_t)incarnation;
    grant->folder = (char *)folder->data;
    grant->target = (char *)(uintptr_t)place.fs;
    grant->n_namenodes = place.n_namenodes;
    grant->namenodes = (char **)(uintptr_t)place.namenodes;
    grant->user = (char *)(uintptr_t)place.user;
    grant->has_roll_bytes = grant->has_roll_interval_ms = grant->has_required = 1;
    grant->roll_bytes = t->s->roll_bytes;
    grant->roll_interval_ms = t->s->roll_interval_ms;
    grant->csv_timezone = t->timezone ? t->timezone : t->s->zone;
    grant->required = t->s->data_path == OSYNC__DATA_DIRECT;
    return true;
}

const char *osync__sched_direct_check(const Openmldb__Datasync__SendDataRequest *r, size_t attached) {
    const Openmldb__Datasync__StagedFile *f = r->staged;
    if (!r->report || !osync__is_id(r->report->stager)) return "a staged file needs the name of its stager";
    if (!osync__is_id(f->incarnation) || !osync__is_id(f->attempt)) return "the staged file isn't named";
    if (attached > 0) return "a request holds rows, or names a staged file, but not both";
    /* A row is one byte at least: the end of its line. */
    if (r->count == 0 || f->bytes < r->count || f->bytes > INT64_MAX)
        return "the staged file can't have as many rows in as many bytes";
    return NULL;
}

void osync__sched_direct_outcome(osync__sub_t *sub, int status, const osync_error_t *err) {
    if (!status) {
        sub->adopt_failures = 0;
        return;
    }
    /* It can write there, but we can't do the rest with its files, whose owner it is. Ours have another. */
    if (++sub->adopt_failures < OSYNC__ADOPT_FAILURES || sub->task->s->data_path == OSYNC__DATA_DIRECT) return;
    sub->adopt_failures = 0;
    sub->proxy_until = osync__mono_ms() + OSYNC__PROXY_MS;
    osync__log(OSYNC_LOG_WARN,
               "tid %u pid %u: files that collector %s writes can't be committed, so its rows go by way of the "
               "scheduler for %d minutes: %s",
               sub->task->tid, sub->pid, sub->collector ? sub->collector : "", OSYNC__PROXY_MS / 60000,
               err ? err->message : osync_strerror(status));
}
