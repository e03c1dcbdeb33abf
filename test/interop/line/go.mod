module github.com/homing-mq/homing/test/interop/line

go 1.26.0
