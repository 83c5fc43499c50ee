/* Stands in for NVIDIA's driver: shows one device. STUB_DRIVER makes it fail: the result of cuInit, `none` or `crash`. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const char *mode(void) {
    const char *value = getenv("STUB_DRIVER");
    return value ? value : "0";
}

int cuInit(unsigned flags) {
    (void)flags;
    if (!strcmp(mode(), "crash")) raise(SIGSEGV);
    return atoi(mode());
}

int cuDriverGetVersion(int *version) {
    *version = 12080;
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = strcmp(mode(), "none") != 0;
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal != 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    strncpy(name, "NVIDIA Stub", length);
    return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = (size_t)8 << 30;
    return 0;
}

/* Compute capability 8.6. */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 8 : 6;
    return 0;
}

int cuGetErrorString(int error, const char **text) {
    (void)error;
    *text = "system has unsupported display driver / cuda driver combination";
    return 0;
}
