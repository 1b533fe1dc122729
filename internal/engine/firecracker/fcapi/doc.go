// Package fcapi is a client of Firecracker's API, from version 1.10 on, over HTTP on a unix socket. Its structs are the
// definitions of Firecracker's specification (src/firecracker/swagger/firecracker.yaml), field by field.
//
// A field or an endpoint that did not exist in 1.10 names, in the tag since or in its method, the first version whose
// specification is known to have it. A request with one that the running Firecracker does not know is refused here with an
// [UnsupportedError] and not sent: Firecracker refuses unknown fields, and its error does not say which version has them.
//
// Left out on purpose, because each has a successor and is to be removed from Firecracker: vsock_id of Vsock; mem_file_path
// (use MemBackend) and enable_diff_snapshots (use TrackDirtyPages; before 1.14.4 there is no other, so diff snapshots of a
// restored microVM need that version) of SnapshotLoadParams.
package fcapi
