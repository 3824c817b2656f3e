/* Hadoop's client configuration: core-site.xml and hdfs-site.xml, and what a WebHDFS client needs from them, which is
 * where the NameNodes are. Not a general Hadoop Configuration: no default resources, no XInclude. Blocking, small
 * files. */
#ifndef OSYNC_SINK_HADOOP_CONF_H
#define OSYNC_SINK_HADOOP_CONF_H

#include <stdbool.h>
#include <stddef.h>

#include "osync/error.h"
#include "osync/export.h"

typedef struct osync__hadoop_conf osync__hadoop_conf_t;

/* Reads both files of `dir` (NULL: HADOOP_CONF_DIR; if that is unset the configuration is empty). A file that isn't
 * there is fine. */
int osync__hadoop_conf_load(const char *dir, osync__hadoop_conf_t **out, osync_error_t *err);
void osync__hadoop_conf_free(osync__hadoop_conf_t *conf);
/* The value with its ${...} replaced; the caller frees *out. *out is NULL if there is no such property. */
int osync__hadoop_conf_get(const osync__hadoop_conf_t *conf, const char *name, char **out, osync_error_t *err);

/* HTTP addresses ("host:port") of the NameNodes that serve `authority` ("host:port", "host" or a nameservice; NULL or
 * "": that of fs.defaultFS). The caller frees *out with osync__hadoop_addresses_free. */
int osync__hadoop_namenodes(const char *conf_dir, const char *authority, char ***out, size_t *n, osync_error_t *err);
/* Whether the configuration names them; if not, osync__hadoop_namenodes guesses the port. */
int osync__hadoop_knows(const char *conf_dir, const char *authority, bool *known, osync_error_t *err);
/* The authority of a webhdfs:// URL, or several with commas between them, with the default port where one names none;
 * as above. OSYNC_ENOMEM. */
int osync__hadoop_http_addresses(const char *authorities, char ***out, size_t *n);
void osync__hadoop_addresses_free(char **addresses, size_t n);

/* fs.defaultFS ("hdfs://ns1"); OSYNC_ECONFIG if it isn't set. */
int osync__hadoop_default_fs(const char *conf_dir, char *out, size_t size, osync_error_t *err);

#endif
