/* Preloaded into a process: writes the host names that C code looks up to the file in LOOKUPS, and finds none of them. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_local(const char *host) {
    unsigned char address[16];
    return host == NULL || !*host || !strcmp(host, "localhost") || inet_pton(AF_INET, host, address) == 1 ||
           inet_pton(AF_INET6, host, address) == 1;
}

static void record(const char *host) {
    int file = open(getenv("LOOKUPS"), O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (file >= 0) {
        (void)!write(file, host, strlen(host));
        (void)!write(file, "\n", 1);
        close(file);
    }
}

/* Answers like a resolver for the addresses of this machine. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!is_local(host)) {
        record(host);
        return EAI_NONAME;
    }
    return next(host, service, hints, found);
}

struct hostent *gethostbyname(const char *host) {
    record(host);
    h_errno = HOST_NOT_FOUND;
    return NULL;
}
