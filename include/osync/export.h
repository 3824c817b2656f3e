/* Symbol visibility: only what is marked OSYNC_API is exported from the shared library. */
#ifndef OSYNC_EXPORT_H
#define OSYNC_EXPORT_H

#if defined(__GNUC__)
#define OSYNC_API               __attribute__((visibility("default")))
#define OSYNC_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define OSYNC_API
#define OSYNC_PRINTF(fmt, args)
#endif

#endif
