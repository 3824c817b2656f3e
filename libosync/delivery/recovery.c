/* Steps 0, 1, 6 and 7: how a partition is taken over, after a start, a crash, or any answer that wasn't plain success.
 * The order is the point: first the store (nobody else can prepare any more), then the fence (nothing late can happen
 * on the sink any more), and only then a look. Whatever fails on the way leads back to the first step, after a pause.
 */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/sys.h"
#include "delivery/internal.h"

static void out_of_memory(osync__delivery_t *d) {
    osync_error_t err;
    osync__err(&err, OSYNC_ENOMEM, "recovery: out of memory");
    osync__trouble(d, err.code, &err);
}

/* The removal of a partition: step 7 */

static void erased(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    d->closing = true;
    osync__finish_close(d);
}

static void erase_record(osync__delivery_t *d, int status, const osync_error_t *err) {
    d->erasing = true;
    osync__store_remove(d, OSYNC__FP_erase_cas, erased);
}

static void erase_top(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__path_folder(d, 2);
    osync__sink_remove(d, OSYNC__FP_erase_top, false, erase_record);
}

static void folder_erased(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    /* Other partitions and other tasks may still be there: these two succeed for the last one only. */
    osync__path_folder(d, 1);
    osync__sink_remove(d, OSYNC__FP_erase_task, false, erase_top);
}

static void erase(osync__delivery_t *d) {
    osync__path_folder(d, 0);
    osync__sink_remove(d, OSYNC__FP_erase_folder, true, folder_erased);
}

/* The probe: before the first file it is tried out whether this sink can do what will be needed, so that a sink that
 * can't is told of at once, and not when the first file is complete. Nothing relies on it. */

static void probe_over(osync__delivery_t *d, bool can) {
    if (d->probing) *d->c.probed = can;
    d->probing = false;
}

static void probe_failed(osync__delivery_t *d, int status, const osync_error_t *err, const char *what) {
    osync_error_t own;
    probe_over(d, false);
    osync__err_wrap(&own, err, "%s can't be used as a destination: %s below it isn't possible", d->dest, what);
    osync__trouble(d, status, &own);
}

static void probe_removed(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        probe_failed(d, status, err, "removing a file");
        return;
    }
    d->probed = true;
    probe_over(d, true);
    osync__ready(d);
}

static void probe_renamed(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        probe_failed(d, status, err, "renaming a file");
        return;
    }
    osync__path_staged(d);
    osync__sink_remove(d, OSYNC__FP_probe_remove, false, probe_removed);
}

static void probe_labelled(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        probe_failed(d, status, err, "labelling a file (an extended attribute)");
        return;
    }
    osync__path_staged(d);
    char from[OSYNC__PATH_SIZE];
    memcpy(from, d->path, sizeof from);
    osync__random_hex(d->attempt, OSYNC__ID_BYTES);
    osync__path_staged(d);
    osync__path_keep(d);
    memcpy(d->path, from, sizeof from);
    osync__sink_rename(d, OSYNC__FP_probe_rename, probe_renamed);
}

static void probe_finished(osync__delivery_t *d, int status, const osync_error_t *err) {
    d->short_labels = d->c.is_stream; /* whether its points fit is seen when there are some */
    if (status) {
        probe_failed(d, status, err, "creating a file");
    } else if (osync__label_file(d)) {
        probe_over(d, false);
        out_of_memory(d);
    } else {
        osync__path_staged(d);
        osync__sink_set_label(d, OSYNC__FP_probe_label, probe_labelled);
    }
}

static void probe_created(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        probe_failed(d, status, err, "creating a file");
    else
        osync__sink_finish(d, OSYNC__FP_probe_finish, probe_finished);
}

static void probe(osync__delivery_t *d) {
    if (d->probed || d->rec.next > 0 || (d->c.probed && *d->c.probed)) {
        osync__ready(d);
        return;
    }
    if (d->c.probed) d->probing = *d->c.probed = true;
    d->unused = false;       /* if its folder has gone meanwhile, only another incarnation helps */
    osync__forget_staged(d); /* so that the label is one of an empty file */
    osync__random_hex(d->attempt, OSYNC__ID_BYTES);
    osync__path_staged(d);
    osync__sink_create(d, OSYNC__FP_probe_create, probe_created);
}

/* Cleaning: only now, when what the tombs told is in the store. What can't be removed now is tried again by the next
 * take-over. */

static void clean_next(osync__delivery_t *d);

static void tomb_removed(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (!status)
        d->rec.former[d->at].blocked = true; /* stored by the next compare-and-set; done again if that never comes */
    d->at++;
    clean_next(d);
}

static void blocker_removed(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__record_t *r = &d->rec;
    if (status) {
        d->at++;
    } else {
        r->n_former--;
        memmove(&r->former[d->at], &r->former[d->at + 1], (r->n_former - d->at) * sizeof r->former[0]);
    }
    clean_next(d);
}

static void clean_next(osync__delivery_t *d) {
    osync__record_t *r = &d->rec;
    if (d->at == r->n_former) {
        probe(d);
    } else if (r->former[d->at].fenced) {
        osync__path_tomb(d, r->former[d->at].incarnation);
        osync__sink_remove(d, OSYNC__FP_tomb_remove, true, tomb_removed);
    } else {
        /* Its empty file has stood there since a former take-over: no request of that time can still be under way. */
        osync__path_incarnation(d, r->former[d->at].incarnation);
        osync__sink_remove(d, OSYNC__FP_blocker_remove, true, blocker_removed);
    }
}

/* Slot n: after a loss of the store, or with a record from a backup, a file may be there already (A7). */

static void settle(osync__delivery_t *d);

static void adopted(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    osync__committed(d);
    if (d->state == OSYNC__RECOVERING && !d->file) osync__look_at_slot(d);
}

int osync__read_label(osync__delivery_t *d, uint64_t n, osync__label_t *l, bool *ours) {
    int rc = osync__label_unpack(l, d->got.data, d->got.len);
    *ours = !rc && strcmp(l->task_id, d->task_id) == 0 && l->pid == d->c.pid && l->n == n && l->bytes == d->stat.length;
    return rc == OSYNC_ENOMEM ? rc : 0;
}

int osync__take_label(osync__delivery_t *d, const osync__label_t *l) {
    osync__record_t *r = &d->rec;
    r->next = l->n + 1;
    r->rows = l->has_totals ? l->total_rows : r->rows + l->rows;
    r->bytes = l->has_totals ? l->total_bytes : r->bytes + l->bytes;
    r->files = l->has_totals ? l->total_files : r->files + 1;
    r->has_prepared = false;
    return osync__buf_set(&r->point, l->end.data, l->end.len);
}

static void foreign_slot(osync__delivery_t *d, const char *why) {
    osync_error_t own;
    osync__path_final(d, d->rec.next);
    osync__err(&own, OSYNC_EEXIST,
               "%s is there already and %s: if the checkpoint store was put back from a backup, move the files that "
               "came after it out of the way; "
               "else move this one",
               d->path, why);
    osync__doom(d, &own);
}

static void slot_durable(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        osync__trouble(d, status, err);
    else
        osync__store_put(d, OSYNC__FP_adopt_cas, adopted);
}

static void slot_label(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status == OSYNC_ENOENT) {
        foreign_slot(d, "has no label of ours");
        return;
    }
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    osync__label_t label = {0};
    bool ours = false;
    int rc = osync__read_label(d, d->rec.next, &label, &ours);
    ours = ours && !label.no_points && osync__buf_equal(&label.start, &d->rec.point);
    if (!rc && ours) rc = osync__take_label(d, &label);
    osync__label_free(&label);
    if (rc)
        out_of_memory(d);
    else if (!ours)
        foreign_slot(d, "its label doesn't continue the committed point");
    else
        osync__sink_barrier(d, OSYNC__FP_adopt_barrier, slot_durable); /* A12: never commit on a read */
}

static void slot_seen(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status == OSYNC_ENOENT && d->rec.has_prepared) {
        settle(d); /* another file was in the slot a moment ago */
    } else if (status == OSYNC_ENOENT) {
        d->at = 0;
        clean_next(d);
    } else if (status) {
        osync__trouble(d, status, err);
    } else if (d->stat.is_dir) {
        foreign_slot(d, "is a folder"); /* A6 */
    } else {
        osync__sink_get_label(d, slot_label);
    }
}

void osync__look_at_slot(osync__delivery_t *d) {
    osync__path_final(d, d->rec.next);
    osync__sink_stat(d, slot_seen);
}

/* The decision about a prepared file: by its tomb (A10), and by its file id (A7). */

static void settled(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    if (d->files != d->rec.files) osync__committed(d);
    if (d->state == OSYNC__RECOVERING && !d->file) osync__look_at_slot(d);
}

static void was_published(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        osync__trouble(d, status, err);
    else if (osync__apply_prepared(d))
        out_of_memory(d);
    else
        osync__store_put(d, OSYNC__FP_settle_cas, settled);
}

static void tomb_seen(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync_error_t own;
    if (status && status != OSYNC_ENOENT) {
        osync__trouble(d, status, err);
    } else if (status || !d->stat.is_dir) {
        osync__err(&own, OSYNC_ENOENT,
                   "%s is gone, so it can't be told whether file %" PRIu64
                   " was published: somebody has cleaned %s/_osync, which must be left alone. %s to go on after the "
                   "newest file that is there",
                   d->path, d->rec.prepared.n, d->dest,
                   d->c.is_stream ? "Remove the stream's checkpoint" : "Create the task again with --continue");
        osync__doom(d, &own);
    } else { /* published, and removed by a consumer since (A10) */
        osync__sink_barrier(d, OSYNC__FP_settle_barrier, was_published);
    }
}

static void final_seen(osync__delivery_t *d, int status, const osync_error_t *err) {
    const osync__prepared_t *p = &d->rec.prepared;
    if (status == OSYNC_ENOENT) {
        osync__path_tomb(d, p->incarnation);
        osync__sink_stat(d, tomb_seen);
    } else if (status) {
        osync__trouble(d, status, err);
    } else if (d->stat.file_id == p->file_id) {
        osync__sink_barrier(d, OSYNC__FP_settle_barrier, was_published); /* A12 */
    } else {
        osync__look_at_slot(d);
    }
}

static void entombed_seen(osync__delivery_t *d, int status, const osync_error_t *err) {
    const osync__prepared_t *p = &d->rec.prepared;
    if (status && status != OSYNC_ENOENT) {
        osync__trouble(d, status, err);
    } else if (!status && d->stat.file_id == p->file_id) {
        d->rec.has_prepared = false; /* not published, and never will be */
        osync__store_put(d, OSYNC__FP_forget_cas, settled);
    } else {
        osync__path_final(d, p->n);
        osync__sink_stat(d, final_seen);
    }
}

static void settle(osync__delivery_t *d) {
    if (d->removing) {
        erase(d);
    } else if (d->rec.rebuilding) {
        osync__rebuild(d);
    } else if (!d->rec.has_prepared) {
        osync__look_at_slot(d);
    } else {
        osync__path_entombed(d, &d->rec.prepared);
        osync__sink_stat(d, entombed_seen);
    }
}

/* The fence */

static void fence_next(osync__delivery_t *d);
static void list_others(osync__delivery_t *d);
static void block(osync__delivery_t *d);

static void blocked(osync__delivery_t *d) {
    d->rec.former[d->at].fenced = true;
    fence_next(d);
}

static void revived_removed(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        osync__trouble(d, status, err);
    else
        block(d);
}

static void place_seen(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status == OSYNC_ENOENT) {
        /* If somebody has cleaned _osync, only another incarnation makes the folder again. */
        if (d->cause.code == OSYNC_ENOENT) d->unused = false;
        osync__trouble(d, d->cause.code, &d->cause);
    } else if (status) {
        osync__trouble(d, status, err);
    } else if (!d->stat.is_dir) {
        blocked(d);
    } else { /* a late MKDIRS was faster; nothing in there was ever prepared */
        osync__sink_remove(d, OSYNC__FP_revived_remove, true, revived_removed);
    }
}

static void look_at_place(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__path_incarnation(d, d->rec.former[d->at].incarnation);
    osync__sink_stat(d, place_seen);
}

static void place_finished(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (!status) {
        blocked(d);
        return;
    }
    d->cause = *err;
    if (d->file)
        osync__sink_abort(d, look_at_place);
    else
        look_at_place(d, 0, NULL);
}

static void place_created(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        place_finished(d, status, err);
    else
        osync__sink_finish(d, OSYNC__FP_block_finish, place_finished);
}

/* An empty file where the folder was: a late MKDIRS can't bring the folder back. */
static void block(osync__delivery_t *d) {
    if (d->removing) {
        blocked(d); /* the folder above goes as a whole */
        return;
    }
    osync__path_incarnation(d, d->rec.former[d->at].incarnation);
    osync__sink_create(d, OSYNC__FP_block_create, place_created);
}

static void tomb_durable(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status)
        osync__trouble(d, status, err);
    else
        block(d);
}

static void tomb_sought(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status == OSYNC_ENOENT)
        block(d); /* the folder was never made */
    else if (status)
        osync__trouble(d, status, err);
    else
        osync__sink_barrier(d, OSYNC__FP_fence_barrier, tomb_durable);
}

static void fenced(osync__delivery_t *d, int status, const osync_error_t *err) {
    const char *incarnation = d->rec.former[d->at].incarnation;
    if (!status) {
        block(d);
    } else if (status == OSYNC_ENOENT || status == OSYNC_EEXIST) {
        /* Fenced before, if the tomb is there; then it must be durable before anything is decided by it. */
        osync__path_tomb(d, incarnation);
        osync__sink_stat(d, tomb_sought);
    } else {
        osync__trouble(d, status, err); /* A4: not before a positive answer */
    }
}

static void fence_next(osync__delivery_t *d) {
    osync__record_t *r = &d->rec;
    while (d->at < r->n_former && (r->former[d->at].blocked || r->former[d->at].fenced)) d->at++;
    if (d->at == r->n_former && d->listed) {
        settle(d);
        return;
    }
    if (d->at == r->n_former) {
        list_others(d);
        return;
    }
    /* A2: a folder's rename is one atomic step that stops every request of that incarnation, creates, labels and
     * renames, however often they are sent. A staged file that is only deleted comes back by a second create. */
    osync__path_tomb(d, r->former[d->at].incarnation);
    osync__path_keep(d);
    osync__path_incarnation(d, r->former[d->at].incarnation);
    osync__sink_rename(d, OSYNC__FP_fence_rename, fenced);
}

/* Others on the sink that the record doesn't know: incarnations left by a lost store (A8), or of an owner with another
 * store, or brought back by a late request; and the claims of rebuilds. What is found is fenced, and then they are
 * looked for again until there is nothing new: only then nothing is decided that a living owner could still change. */

static void others_stored(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
        return;
    }
    d->at = 0;
    fence_next(d);
}

static bool is_known(const osync__record_t *r, const osync__found_t *found) {
    if (strcmp(r->incarnation, found->id) == 0) return true;
    for (size_t i = 0; i < r->n_former; i++)
        if (strcmp(r->former[i].incarnation, found->id) == 0) return true;
    return false;
}

/* Another owner, with a store of its own, has fenced us and goes on where the files end. What we know is out of date.
 */
static void replaced(osync__delivery_t *d) {
    osync_error_t own;
    if (d->removing) {
        erase_record(d, 0, NULL); /* what is on the sink is no longer ours */
        return;
    }
    osync__path_folder(d, 0);
    if (d->c.is_stream)
        osync__err(&own, OSYNC_ECONFLICT,
                   "the stream was opened with another checkpoint (%s): it goes on there, and is over here", d->path);
    else
        osync__err(&own, OSYNC_ECONFLICT,
                   "this partition was recovered by another scheduler, with another state folder (%s): it goes on "
                   "there, and is over here; delete the task here",
                   d->path);
    osync__doom(d, &own);
}

/* The record stays well below a store's limit: what is more is left for the next start. But a rebuild must not leave
 * anybody out. */
static bool is_crowded(osync__delivery_t *d) {
    enum { MAX_FORMER = 10000 };
    return d->rec.n_former >= MAX_FORMER;
}

static void too_many(osync__delivery_t *d) {
    osync_error_t own;
    osync__path_folder(d, 0);
    osync__err(&own, OSYNC_ETOOBIG, "%s holds the folders of more than %zu former owners", d->path, d->rec.n_former);
    osync__doom(d, &own);
}

static void others_listed(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync__record_t *r = &d->rec;
    if (status && status != OSYNC_ENOENT) {
        osync__trouble(d, status, err);
        return;
    }
    for (size_t i = 0; i < d->n_found; i++) {
        /* Claims are in order: of two rebuilds side by side one stops. */
        if (d->found[i].is_claim && strcmp(d->found[i].id, r->claim) > 0) {
            replaced(d);
            return;
        }
    }
    bool news = false;
    for (size_t i = 0; i < d->n_found; i++) {
        osync__found_t *found = &d->found[i];
        if (found->is_claim || is_known(r, found) || (is_crowded(d) && !r->rebuilding)) continue;
        if (is_crowded(d)) {
            too_many(d);
            return;
        }
        if (osync__record_add_former(r, found->id)) {
            out_of_memory(d);
            return;
        }
        news = true;
    }
    d->listed = !news;
    /* A name in the list could be a successor's. That it isn't, only the store can say: if this compare-and-set
     * succeeds, nobody had taken over when the list was made. */
    if (news)
        osync__store_put(d, OSYNC__FP_others_cas, others_stored);
    else
        others_stored(d, 0, NULL);
}

static void list_others(osync__delivery_t *d) {
    osync__path_folder(d, 0);
    osync__sink_list(d, others_listed);
}

/* Take-over */

void osync__go_on(osync__delivery_t *d) {
    if (d->rec.rebuilding && !d->removing && !d->claim_made) {
        osync__claim(d);
        return;
    }
    /* First the fence, then the look for others: who has fenced us meanwhile had made his claim before. A claim that is
     * seen after our folder was made stops us; one that is made later finds our folder. */
    d->listed = false;
    d->at = 0;
    fence_next(d);
}

static void made(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        /* Its name is sent once, as any other: a request that comes late could bring the folder back after a fence,
         * while it is in use. */
        d->unused = false;
        osync__trouble(d, status, err);
        return;
    }
    d->made = true;
    osync__go_on(d);
}

static void taken(osync__delivery_t *d, int status, const osync_error_t *err) {
    if (status) {
        osync__trouble(d, status, err);
    } else if (d->removing || d->made) {
        osync__go_on(d);
    } else {
        osync__path_incarnation(d, d->rec.incarnation);
        osync__sink_mkdirs(d, OSYNC__FP_take_mkdirs, made);
    }
}

static void take_over(osync__delivery_t *d) {
    osync__record_t *r = &d->rec;
    /* Without a prepare or a staged file a former incarnation must be fenced just the same: its requests may be under
     * way. Not so one of ours whose folder was never seen to be made: at most an empty folder comes of it, which the
     * look for others finds. (Else the record would grow for as long as the sink is away.) */
    bool bare = !d->made && strcmp(r->incarnation, d->incarnation) == 0;
    if (r->incarnation[0] && !bare && osync__record_add_former(r, r->incarnation)) {
        out_of_memory(d);
        return;
    }
    osync__random_hex(d->incarnation, OSYNC__ID_BYTES);
    memcpy(r->incarnation, d->incarnation, sizeof r->incarnation);
    memcpy(r->owner, d->owner, sizeof r->owner);
    r->generation++;
    d->unused = true;
    d->granted[0] = 0;
    d->made = false;
    osync__store_put(d, OSYNC__FP_take_cas, taken);
}

static void conflict(osync__delivery_t *d) {
    osync_error_t err;
    osync__err(&err, OSYNC_ECONFLICT, "another owner has taken %s over (record %s)", d->title, d->key);
    osync__doom(d, &err);
}

/* What was cleaned since the record was stored needn't be fenced again. */
static void remember_cleaned(osync__delivery_t *d, const osync__record_t *former) {
    for (size_t i = 0; i < former->n_former; i++)
        for (size_t j = 0; j < d->rec.n_former && former->former[i].blocked; j++)
            if (strcmp(former->former[i].incarnation, d->rec.former[j].incarnation) == 0)
                d->rec.former[j].blocked = true;
}

static int load(osync__delivery_t *d, bool absent, osync_error_t *err) {
    int rc = 0;
    osync__record_t former = d->rec;
    d->rec = (osync__record_t){0};
    d->stored.len = 0;
    if (absent) {
        rc = osync__buf_set(&d->rec.point, d->c.first_point, d->c.first_point_len);
        d->rec.rebuilding = d->c.rebuild;
        d->claim_made = false;
    } else {
        rc = osync__buf_set(&d->stored, d->got.data, d->got.len);
        if (!rc) rc = osync__record_unpack(&d->rec, d->got.data, d->got.len, d->task_id, d->c.pid, err);
    }
    if (rc == OSYNC_ENOMEM) osync__err(err, rc, "recovery: out of memory");
    remember_cleaned(d, &former);
    osync__record_free(&former);
    return rc;
}

static void record_read(osync__delivery_t *d, int status, const osync_error_t *err) {
    osync_error_t own;
    bool absent = status == OSYNC_ENOENT;
    if (status && !absent) {
        osync__trouble(d, status, err);
        return;
    }
    if (absent && d->erasing) {
        erased(d, 0, NULL);
        return;
    }
    if (load(d, absent, &own)) {
        osync__doom(d, &own);
        return;
    }
    /* Whether a compare-and-set without an answer was done doesn't matter: every value names its owner (A9), and ours
     * is a point to go on from. */
    bool ours = strcmp(d->rec.owner, d->owner) == 0;
    if (d->owned && !ours && !d->removing) {
        conflict(d);
        return;
    }
    d->owned = ours;
    if (d->files != d->rec.files || !osync__buf_equal(&d->point, &d->rec.point)) osync__committed(d);
    if (d->state != OSYNC__RECOVERING) return;
    if (d->unused && strcmp(d->rec.incarnation, d->incarnation) == 0)
        taken(d, 0, NULL);
    else
        take_over(d);
}

void osync__recover(osync__delivery_t *d) {
    d->state = OSYNC__RECOVERING;
    osync__store_get(d, record_read);
}
