// Package store keeps the records and files of sandboxes, of volumes, and of other things of which there are many (Shelf): one
// directory each, below one root for each kind, with the record in sandbox.json or volume.json.
//
// A thing appears and disappears by the rename of its directory, so that a crash leaves either all of it or, under a
// name that begins with a dot, a leftover that Load deletes. A record is written to a temporary file, fsynced and renamed.
// A record that cannot be read is never deleted and never an error of Load: it is reported and left alone.
package store

import "github.com/agentkernel/agentkernel/internal/sandbox"

const recordFile = "sandbox.json"

// Store is a directory of sandboxes.
type Store struct{ *Shelf[sandbox.Record] }

// Open makes root (mode 0700) when it is missing.
func Open(root string) (*Store, error) {
	s, err := OpenShelf(root, Kind[sandbox.Record]{
		What: "sandbox", File: recordFile, Version: sandbox.RecordVersion,
		ID:    func(r sandbox.Record) string { return r.ID },
		Stamp: func(r *sandbox.Record) { r.Version = sandbox.RecordVersion },
	})
	return &Store{s}, err
}

// Volumes is a directory of volumes, as Store is one of sandboxes.
type Volumes struct{ *Shelf[sandbox.Volume] }

// OpenVolumes makes root (mode 0700) when it is missing.
func OpenVolumes(root string) (*Volumes, error) {
	s, err := OpenShelf(root, Kind[sandbox.Volume]{
		What: "volume", File: "volume.json", Version: sandbox.VolumeVersion,
		ID:    func(v sandbox.Volume) string { return v.ID },
		Stamp: func(v *sandbox.Volume) { v.Version = sandbox.VolumeVersion },
	})
	return &Volumes{s}, err
}
