package hostvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
)

// cached is what the probe's cache file holds. Key is everything that a verdict depends on.
type cached struct {
	Key string `json:"key"`
	KVM KVM    `json:"kvm"`
}

// ProbeKVM measures this host's KVM, in less than a second, or takes the verdict from cacheFile when nothing that it
// depends on has changed. An unreadable cache is ignored and written anew; that it cannot be written is no error, as the
// next probe only takes longer then. An error means that ctx ended.
//
// Only a verdict that rests on a measurement is cached: that there is no device, or no permission, is asked every time,
// as it is what the hint tells the user to change.
func ProbeKVM(ctx context.Context, cacheFile string) (KVM, error) {
	key, err := probeKey()
	if err != nil {
		key = "" // without it nothing is cached
	}
	if v, ok := readCache(cacheFile, key); ok {
		return v, nil
	}
	v, err := measureKVM(ctx)
	if err != nil {
		return KVM{}, fmt.Errorf("probe KVM: %w", err)
	}
	if key != "" && v.NsPerInstruction > 0 {
		if b, err := json.Marshal(cached{Key: key, KVM: v}); err == nil {
			_ = renameio.WriteFile(cacheFile, b, 0o600)
		}
	}
	return v, nil
}

func readCache(file, key string) (KVM, bool) {
	b, err := os.ReadFile(file)
	if err != nil || key == "" {
		return KVM{}, false
	}
	var c cached
	if json.Unmarshal(b, &c) != nil || c.Key != key || !c.KVM.valid() || !canOpen() {
		return KVM{}, false
	}
	return c.KVM, true
}

// valid reports whether v is one that a measurement could have made.
func (v KVM) valid() bool {
	return v.Usable && v.Reason != "" && v.NsPerInstruction > 0 && v.Good == (v.NsPerInstruction <= goodNs)
}

// probeKey is all that a measured verdict depends on: this boot, the CPU (a running VM may be moved to another host), the
// kernel, and the user.
func probeKey() (string, error) {
	boot, err1 := bootID()
	release, err2 := kernelRelease()
	cpu, err3 := CPUModel()
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", err
	}
	return strings.Join([]string{"1", boot, cpu, release, strconv.Itoa(os.Geteuid())}, "|"), nil
}
