import java.net.URI; import java.net.http.*; import java.time.Duration; import java.util.concurrent.*; import java.util.concurrent.atomic.*;
public class Client { public static void main(String[] a) throws Exception {
  String addr=a[0]; int rate=Integer.parseInt(a[1]), secs=Integer.parseInt(a[2]); String version=a[3];
  HttpClient c=HttpClient.newBuilder().version(version.equals("2")?HttpClient.Version.HTTP_2:HttpClient.Version.HTTP_1_1).build();
  HttpRequest r=HttpRequest.newBuilder(URI.create("http://"+addr+"/v1/models/half_plus_two:predict")).header("x-model-server","models").timeout(Duration.ofSeconds(10)).POST(HttpRequest.BodyPublishers.ofString("{\"instances\": [1.0]}")).build();
  int n=rate*secs; AtomicInteger lost=new AtomicInteger(); ConcurrentHashMap<String,Integer> errs=new ConcurrentHashMap<>(); CountDownLatch l=new CountDownLatch(n); long t0=System.nanoTime();
  for(int i=0;i<n;i++){ long d=t0+i*1000000000L/rate-System.nanoTime(); if(d>0) Thread.sleep(d/1000000,(int)(d%1000000));
    c.sendAsync(r,HttpResponse.BodyHandlers.ofString()).whenComplete((x,e)->{ if(e!=null||x.statusCode()!=200){lost.incrementAndGet(); String k=e!=null?String.valueOf(e.getCause()!=null?e.getCause():e):"status "+x.statusCode(); errs.merge(k.substring(0,Math.min(120,k.length())),1,Integer::sum);} l.countDown();}); }
  l.await(); System.out.println("java-http"+version+" calls "+n+" lost "+lost+" "+errs); System.exit(0); } }
