/*
 * A disk that misbehaves on demand, put before the C library of a member under test: a sync of a
 * file below DIR/databases does not return while DIR/stalled exists, and kills the process while
 * DIR/deadly does. The counters of its reads are those of the file that DISK_COUNTERS names, while
 * there is one.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int told(const char *directory, const char *file)
{
    char path[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    return access(path, F_OK) == 0;
}

int fdatasync(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    size_t end = strlen(path);
    /* The start of a copy is counted in its control file, before anything that could go wrong. */
    int control = end > 8 && strcmp(path + end - 8, "/control") == 0;
    char *below = strstr(path, "/databases/");
    if (below != NULL)
        *below = 0;
    struct timespec pause = {0, 10 * 1000 * 1000};
    while (below != NULL && told(path, "stalled"))
        nanosleep(&pause, NULL);
    int result = syscall(SYS_fdatasync, fd);
    if (below != NULL && !control && told(path, "deadly"))
        kill(getpid(), SIGKILL);
    return result;
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    const char *counters = getenv("DISK_COUNTERS");
    int wanted = counters != NULL && strncmp(path, "/sys/dev/block/", 15) == 0;
    if (wanted && access(counters, R_OK) == 0)
        path = counters;
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
