package stats

import (
	"bytes"
	"testing"
)

// FuzzParseKill reads records of the kernel's log, to which processes of the guest can write as well.
func FuzzParseKill(f *testing.F) {
	f.Add([]byte("3,451,9876543,-;Out of memory: Killed process 123 (a) b) total-vm:10kB, anon-rss:3kB\n SUBSYSTEM=x"))
	f.Add([]byte("11,451,9876543,-;Memory cgroup out of memory: Killed process 4294967296 (liar) total-vm:10kB"))
	f.Fuzz(func(t *testing.T, record []byte) {
		_, name, ok := parseKill(record)
		if ok && (record[0] > '7' && record[0] != '0' || !bytes.Contains(record, []byte("("+name+") total-vm:"))) {
			t.Errorf("%q was killed", name)
		}
	})
}
