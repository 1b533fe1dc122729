// Package store keeps the records and files of sandboxes and of volumes: one directory each, below one root for each kind, with the
// record in sandbox.json or volume.json.
//
// A sandbox or volume appears and disappears by the rename of its directory, so that a crash leaves either all of it or, under a
// name that begins with a dot, a leftover that Load deletes. A record is written to a temporary file, fsynced and renamed.
// A record that cannot be read is never deleted and never an error of Load: it is reported and left alone.
package store

import "github.com/agentkernel/agentkernel/internal/sandbox"

const recordFile = "sandbox.json"

// Store is a directory of sandboxes. Its methods may be called at the same time for different sandboxes.
type Store struct{ shelf[sandbox.Record] }

// Open makes root (mode 0700) when it is missing.
func Open(root string) (*Store, error) {
	s := &Store{shelf[sandbox.Record]{
		root: root, what: "sandbox", file: recordFile, version: sandbox.RecordVersion,
		id:    func(r sandbox.Record) string { return r.ID },
		stamp: func(r *sandbox.Record) { r.Version = sandbox.RecordVersion },
	}}
	return s, s.make()
}

// Volumes is a directory of volumes, as Store is one of sandboxes.
type Volumes struct{ shelf[sandbox.Volume] }

// OpenVolumes makes root (mode 0700) when it is missing.
func OpenVolumes(root string) (*Volumes, error) {
	s := &Volumes{shelf[sandbox.Volume]{
		root: root, what: "volume", file: "volume.json", version: sandbox.VolumeVersion,
		id:    func(v sandbox.Volume) string { return v.ID },
		stamp: func(v *sandbox.Volume) { v.Version = sandbox.VolumeVersion },
	}}
	return s, s.make()
}
